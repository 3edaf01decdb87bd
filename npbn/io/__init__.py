"""What all formats need: arrays of other libraries, text of unknown origin, whole files."""
