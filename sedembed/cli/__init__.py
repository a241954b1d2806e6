"""The commands of the command line, a module for each group; none imports anything heavy at its top."""
