"""Models on the Hub: pin, list, read ranges, download. The only room that knows huggingface_hub.

A revision is resolved once, to a commit; from then on only the commit is asked for. The Hub is asked before anything
comes from its cache on this machine, because a cached file is no proof that it may still be read.
"""

import cache.hub.environment  # noqa: F401 (before huggingface_hub)
from cache.hub.downloads import bytes_to_fetch, fetch, has_room, kept
from cache.hub.listing import revisions, subfolders
from cache.hub.lookup import confirm_access, find, suggest_base
from cache.hub.places import cache_dir
from cache.hub.ranges import read_range
from cache.hub.transfer import stream_range

__all__ = [
    "bytes_to_fetch",
    "cache_dir",
    "confirm_access",
    "fetch",
    "find",
    "has_room",
    "kept",
    "read_range",
    "revisions",
    "stream_range",
    "subfolders",
    "suggest_base",
]
