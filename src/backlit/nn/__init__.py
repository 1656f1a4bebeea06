"""Layers, initialisers, losses and metrics, and the `Network` that binds layers to parameters."""

from backlit.nn import initializers, losses, metrics
from backlit.nn.activations import Activation, PReLU
from backlit.nn.attention import MultiHeadAttention, TransformerBlock
from backlit.nn.combinators import Add, Block, Concat, Parallel, Residual, Sequential
from backlit.nn.convolution import Conv1d, Conv2d, ConvTranspose2d
from backlit.nn.dense import Dense
from backlit.nn.dropout import Dropout
from backlit.nn.embedding import Embedding, Masking, PositionEmbedding, PositionEncoding
from backlit.nn.layer import Context, Layer
from backlit.nn.network import Network
from backlit.nn.normalization import BatchNorm, GroupNorm, LayerNorm, RMSNorm
from backlit.nn.pooling import AvgPool, GlobalAvgPool, GlobalMaxPool, MaxPool
from backlit.nn.recurrent import GRU, LSTM, SimpleRNN
from backlit.nn.shape import Flatten, Permute, Reshape
from backlit.settings import register

__all__ = [
    "GRU", "LSTM", "Activation", "Add", "AvgPool", "BatchNorm", "Block", "Concat", "Context", "Conv1d", "Conv2d",
    "ConvTranspose2d", "Dense", "Dropout", "Embedding", "Flatten", "GlobalAvgPool", "GlobalMaxPool", "GroupNorm",
    "Layer", "LayerNorm", "Masking", "MaxPool", "MultiHeadAttention", "Network", "PReLU", "Parallel", "Permute",
    "PositionEmbedding", "PositionEncoding", "RMSNorm", "Reshape", "Residual", "Sequential", "SimpleRNN",
    "TransformerBlock", "initializers", "losses", "metrics", "register",
]  # fmt: skip
