"""Diagnose: which units of a model of your own are dead, by a command, on a page.

python -m relu_dynamics.diagnose module:model --data x.npz --params params.msgpack
write_page(inspection.diagnose(model, params, batches), "diagnosis.html")
"""

from relu_dynamics.diagnose.page import write_page as write_page
