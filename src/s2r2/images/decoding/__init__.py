"""From bytes to pixels: headers first, in processes that may be lost, colors as a viewer shows them."""
