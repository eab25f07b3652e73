"""What a run leaves behind: manifest, page, card, bill of materials, and its bill."""
