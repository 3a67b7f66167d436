"""Pages of one file: HTML with its styles, scripts and data inside, which no network is needed to read.

`templates/` has the words, `assets/` the styles and scripts, `vendor/` other people's (3Dmol.js, BSD-3-Clause).
"""

from relaxrl.page.page import VIEWER, data_json, rounded, write_page

__all__ = ["VIEWER", "data_json", "rounded", "write_page"]
