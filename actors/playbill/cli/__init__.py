"""The command line: ``playbill ...``. Needs the extra ``cli``."""
