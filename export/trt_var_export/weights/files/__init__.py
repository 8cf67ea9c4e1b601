"""Files of weights as people have them: their formats, where in them the model is, whether its weights can be used."""
