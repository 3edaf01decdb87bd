"""After training: networks described as plain data, rebuilt, folded, and exported to ONNX."""

from npbn.deploy.config import from_config, to_config
from npbn.deploy.folding import fold_batch_norm
from npbn.deploy.onnx_export import export_onnx
from npbn.deploy.rebuilding import from_state_dict

__all__ = ["export_onnx", "fold_batch_norm", "from_config", "from_state_dict", "to_config"]
