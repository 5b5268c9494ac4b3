"""What papers print: efficiency tables, FLOPs of methods, accuracies, each with its source."""
