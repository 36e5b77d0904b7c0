"""Pixels to files and back: MP4, stills, sound, subtitles, thumbnails."""
