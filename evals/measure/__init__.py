"""What a method costs on a device: measured in a process of its own, beside the floors of that device."""
