"""Memory that is freed with every update, kept for the next."""

import torch


def keep_freed_memory() -> None:
    """Have this process keep up to 62 MiB of freed memory, rather than return it at once.

    An update frees some megabytes, and glibc would have the system take them and fault them in
    again, page by page, at the next. Without glibc this does nothing.

    Source:
        mallopt(3), M_MMAP_THRESHOLD: freeing a large block (at most 32 MiB) raises the limit from
        which freed memory is returned to twice its size.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)
