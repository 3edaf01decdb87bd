"""Code for the type checker alone is not imported."""

collect_ignore = ["user_code.py", "wrong_code.py"]
