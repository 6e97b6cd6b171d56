"""What people who write policies work with: check, test, explain, bench."""
