"""Addresses that no webhook may be sent to, and texts that are none."""

from __future__ import annotations

HOSTILE_URLS = [
    # not http
    "ftp://example.com/", "file:///etc/passwd", "gopher://127.0.0.1:70/", "javascript:alert(1)", "//example.com/", "",
    "example.com", "HTTP://example.com", "http:/example.com", "http:///path", "https://", "http://?x", "dict://x:1/",
    # two readers, two hosts
    "http://example.com@127.0.0.1/", "http://user:pass@example.com/", "http://127.0.0.1\\@example.com/",
    "http://example.com\\.evil.com/", "http://exa mple.com/", "http://example.com\t/", "http://example.com\r\nX: y",
    "http://example.com/\x00", "http://ex\u00e4mple.com/", "http://\uff11\uff12\uff17.0.0.1/", "http://127\u30020.0.1/",
    "http://example.com#@127.0.0.1/", "http://example.com%00.evil/", "http://%31%32%37.0.0.1/", "http://[::1/",
    "http://::1/", "http://example..com/", "http://-example.com/", "http://example.com:0/", "http://example.com:/",
    "http://example.com:99999/", "http://example.com:8o/", "https://example.com/#fragment", "http://" + "a" * 3000,
    # numbers that only some understand
    "http://2130706433/", "http://0x7f000001/", "http://0x7f.0.0.1/", "http://0177.0.0.1/", "http://127.1/",
    "http://127.0.1/", "http://017700000001/", "http://127.0.0.1.0/", "http://1.2.3.256/", "http://0/",
    "http://00000177.0.0.1/", "http://example.0x1/", "http://127.0.0.01/",
    # addresses that are nobody's business
    "http://127.0.0.1/", "http://127.255.255.254/", "http://0.0.0.0/", "http://10.1.2.3/", "http://172.16.0.1/",
    "http://192.168.1.1/", "http://169.254.169.254/latest/meta-data/", "http://100.64.0.1/", "http://100.100.100.200/",
    "http://192.0.0.192/", "http://198.18.0.1/", "http://203.0.113.1/", "http://224.0.0.1/", "http://240.0.0.1/",
    "http://255.255.255.255/", "http://192.88.99.1/", "http://127.0.0.1./",
    "http://[::1]/", "http://[::]/", "http://[::ffff:127.0.0.1]/", "http://[::ffff:8.8.8.8]/", "http://[::127.0.0.1]/",
    "http://[64:ff9b::7f00:1]/", "http://[64:ff9b:1::1]/", "http://[fe80::1]/", "http://[fe80::1%25eth0]/",
    "http://[fc00::1]/", "http://[fd00:ec2::254]/", "http://[fec0::1]/", "http://[ff02::1]/", "http://[2002:7f00:1::]/",
    "http://[2001:0:7f00:1::]/", "http://[2001:db8::1]/", "http://[100::1]/", "http://[0:0:0:0:0:0:0:1]/",
    "http://[::ffff:7f00:1]/", "http://[1::127.0.0.1]/",
    # other ports
    "http://example.com:22/", "http://example.com:6379/", "https://example.com:8443/", "http://8.8.8.8:25/",
]  # fmt: skip
