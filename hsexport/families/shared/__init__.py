"""What several families are made of; nobody outside `families` looks in here."""
