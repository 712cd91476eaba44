"""The checks of the exercises, one file per notebook: `from checks import n03_masked_average as check`."""
