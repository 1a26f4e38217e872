"""NeMo Guardrails' server with one configuration, on loopback: its own command listens on every interface.

python nemo_server.py CONFIG_FOLDER PORT
"""

import logging
import sys
from pathlib import Path

import uvicorn
from nemoguardrails.server import api

folder = Path(sys.argv[1]).resolve()
api.app.rails_config_path = str(folder)
api.app.single_config_mode = True
api.app.single_config_id = folder.name
api.app.disable_chat_ui = True
api.set_default_config_id(folder.name)
for name in (None, "nemoguardrails"):
    logging.getLogger(name).setLevel(logging.WARNING)
uvicorn.run(api.app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", access_log=False)
