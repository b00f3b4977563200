"""One mechanism, one file; the folder is the table that ``saccade.catalog`` reads."""
