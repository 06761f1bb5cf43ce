"""What comes before a training's first step: its plan, trials and folder."""
