"""Attack a stack on purpose and write down what every layer said."""
