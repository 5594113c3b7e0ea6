"""The build as a sentence, its stages, the store. May import every room of hsexport but cli, measure and deploy."""
