"""Hardware profiles as package data: one YAML a device, read by ``aim_cost.devices.hardware``."""
