"""The manual pages in docs/man, made from the texts of `--help`: `make man` writes them."""
