"""Encoders whose embeddings have unit length."""

import torch

from skgmje.networks import Encoder

RECIPE = {
    "encoder": "mlp",
    "n_features_in": 4,
    "embedding_dim": 3,
    "hidden_layer_sizes": (8,),
    "activation": "relu",
}


def encoder_on_sphere():
    generator = torch.Generator().manual_seed(0)
    encoder = Encoder(RECIPE, torch.zeros(4), torch.ones(4), generator)
    encoder.put_on("sphere")
    return encoder


def rows(n_samples=200):
    return 5 + torch.randn(n_samples, 4, generator=torch.Generator().manual_seed(1))


def test_embeddings_have_unit_length_and_a_common_centre():
    z = encoder_on_sphere()(rows())
    torch.testing.assert_close(z.detach().norm(dim=1), torch.ones(200))
    assert float(z.mean(0).detach().norm()) < 0.2


def test_inference_does_not_depend_on_the_batch():
    encoder = encoder_on_sphere()
    for _ in range(50):
        encoder(rows())
    fitted = encoder.for_inference()
    x = rows().double()
    torch.testing.assert_close(fitted(x)[:3], fitted(x[:3]))
    assert float(fitted(x).mean(0).detach().norm()) < 0.2


def test_the_recipe_builds_the_same_encoder():
    encoder = encoder_on_sphere()
    encoder(rows())
    again = Encoder(encoder.recipe, torch.zeros(4), torch.ones(4))
    again.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(again.eval()(rows()), encoder.eval()(rows()))
