"""The page: adapters chosen, weighed, compared and merged in a browser, on its own or as a tab of a host.

`python -m lycomerge.ui` serves it for a folder; a host makes it a tab by `page.page(host)` inside a `gradio.Blocks` of
its own. The form comes from the library's lists of strategies and options, and every figure and picture from the
library: nothing here knows how to merge.
"""
