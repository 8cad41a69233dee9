"""Words for searches: vectors of a CLIP-like model beside those of the encoder."""
