"""The old place of the client, for one version more: `from espalier import Client`."""

import warnings

from espalier.client import *  # noqa: F403 (all of it is there under the old name)

warnings.warn("app.client has moved: from espalier import Client", DeprecationWarning, stacklevel=2)
