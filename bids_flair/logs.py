"""The level between INFO and WARNING: what everyone is shown unasked."""

NOTICE = 25
