from sedembed import ray as ray
from sedembed._training.finetune import Finetuned as Finetuned
from sedembed._training.finetune import finetune as finetune
from sedembed._utils.machine import show_versions as show_versions
from sedembed.batch.embed_folder import embed_folder as embed_folder
from sedembed.detection.events import Event as Event
from sedembed.embedder import Embedder as Embedder
from sedembed.embedder import embed as embed
from sedembed.embedder import load_model as load_model
from sedembed.errors import AudioError as AudioError
from sedembed.errors import SedembedError as SedembedError
from sedembed.models.base import Backbone as Backbone
from sedembed.models.registry import ModelRecord as ModelRecord
from sedembed.models.registry import describe_model as describe_model
from sedembed.models.registry import list_models as list_models
from sedembed.models.registry import register_model as register_model
from sedembed.models.weights import load_network as load_network
from sedembed.models.weights import push_to_hub as push_to_hub
from sedembed.models.weights import save_pretrained as save_pretrained
from sedembed.probe.probe import LinearProbe as LinearProbe
from sedembed.store.merge import merge_stores as merge_stores
from sedembed.store.store import EmbeddingStore as EmbeddingStore
from sedembed.store.store import open_store as open_store
from sedembed.types import Frames as Frames

__version__: str
