"""Update rules, one file a family: the equation, its state, its piece and its recipe."""
