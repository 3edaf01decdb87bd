"""Mistakes that a type checker finds: each line with an error names its code at the end."""

import numpy as np

import npbn

npbn.Linear("4", 3)  # expect: arg-type
npbn.CrossEntropyLoss(reduction="average")  # expect: call-overload
npbn.Lineer(4, 3)  # expect: attr-defined
npbn.MLP().load_state_dict("model.npz")  # expect: arg-type
npbn.train_epoch(
    npbn.MLP(),
    [],
    npbn.CrossEntropyLoss(reduction="none"),  # expect: arg-type
    npbn.SGD(npbn.MLP().parameters()),
)
npbn.Sequential(np.ones(3))  # expect: arg-type
