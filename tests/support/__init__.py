"""What tests of several folders share: cohorts, runs, files of each format, and checks of documents."""
