"""What people take in at a glance: a plan's models, what it needs beside what is there, what to do after a merge."""
