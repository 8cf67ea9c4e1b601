"""Training: VQVAE, VAR by teacher forcing, and CoDe's specialised fine-tuning. Needs the ``train`` extra."""
