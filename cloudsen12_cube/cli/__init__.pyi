from . import demo as demo
from . import render as render
from .commands import main as main
