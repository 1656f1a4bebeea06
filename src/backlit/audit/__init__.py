"""Checking other people's work: worksheets, the first wrong number, and which slip it is."""
