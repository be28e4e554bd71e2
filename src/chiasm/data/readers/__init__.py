"""One file a format; each recognises its data by the content, and nothing lists them. See `data.formats`."""
