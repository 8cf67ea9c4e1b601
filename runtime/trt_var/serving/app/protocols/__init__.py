"""What clients speak: OpenAI's images and the Open Inference Protocol."""
