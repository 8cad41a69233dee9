"""From bytes to pixels: headers first, in processes that may be lost, colours as a viewer shows them."""
