"""The bit-mask pack: safetensors files without their zeros; numpy alone, no torch."""
