"""Quality of answers under a schedule: accuracy and fidelity."""
