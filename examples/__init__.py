"""Programs that show npbn at work; see the README."""
