"""Devices: datasheet peaks and the roofline."""
