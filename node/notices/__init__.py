"""Critical results told to people: who is told, with what words, until somebody says that they know."""
