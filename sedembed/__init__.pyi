from sedembed.batch.embed_folder import embed_folder as embed_folder
from sedembed.detection.events import Event as Event
from sedembed.embedder import Embedder as Embedder
from sedembed.embedder import Frames as Frames
from sedembed.embedder import embed as embed
from sedembed.embedder import load_model as load_model
from sedembed.errors import AudioError as AudioError
from sedembed.errors import SedembedError as SedembedError
from sedembed.models.registry import ModelRecord as ModelRecord
from sedembed.models.registry import describe_model as describe_model
from sedembed.models.registry import list_models as list_models
from sedembed.models.weights import save_pretrained as save_pretrained
from sedembed.probe.probe import LinearProbe as LinearProbe
from sedembed.store.store import EmbeddingStore as EmbeddingStore
from sedembed.store.store import open_store as open_store

__version__: str
