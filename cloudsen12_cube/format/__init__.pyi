"""What a cube is on disk: layouts, codecs, shards, records, metadata and statistics."""

from .codec import (
    CRC as CRC,
)
from .codec import (
    decode as decode,
)
from .cube import (
    CubeSettings as CubeSettings,
)
from .cube import (
    State as State,
)
from .cube import (
    StoredCube as StoredCube,
)
from .cube import (
    find_stored_cube as find_stored_cube,
)
from .cube import (
    is_cube as is_cube,
)
from .cube import (
    open_stored_cube as open_stored_cube,
)
from .cube import (
    read_root as read_root,
)
from .document import (
    Natural as Natural,
)
from .document import (
    load_json as load_json,
)
from .document import (
    parse as parse,
)
from .layout import (
    DEFAULT as DEFAULT,
)
from .layout import (
    DIMS as DIMS,
)
from .layout import (
    KEY as KEY,
)
from .layout import (
    ROOT_KEY as ROOT_KEY,
)
from .layout import (
    ChunkName as ChunkName,
)
from .layout import (
    CodecName as CodecName,
)
from .layout import (
    Layout as Layout,
)
from .layout import (
    ProductLayout as ProductLayout,
)
from .layout import (
    check_version as check_version,
)
from .layout import (
    fill_value as fill_value,
)
from .layout import (
    layout_of as layout_of,
)
from .layout import (
    parse_codec as parse_codec,
)
from .layout import (
    record_key as record_key,
)
from .layout import (
    records_path as records_path,
)
from .layout import (
    shard_key as shard_key,
)
from .layout import (
    stored_dtype as stored_dtype,
)
from .metadata import (
    ABOUT as ABOUT,
)
from .metadata import (
    Contents as Contents,
)
from .metadata import (
    Frame as Frame,
)
from .metadata import (
    contents_of as contents_of,
)
from .metadata import (
    damaged_tables as damaged_tables,
)
from .metadata import (
    memory_store as memory_store,
)
from .metadata import (
    metadata_objects as metadata_objects,
)
from .metadata import (
    prediction_encoding as prediction_encoding,
)
from .metadata import (
    read_order as read_order,
)
from .metadata import (
    read_shard as read_shard,
)
from .metadata import (
    read_status as read_status,
)
from .metadata import (
    read_table as read_table,
)
from .metadata import (
    rebuild_metadata as rebuild_metadata,
)
from .metadata import (
    root_attributes as root_attributes,
)
from .metadata import (
    write_metadata as write_metadata,
)
from .record import (
    ABSENT as ABSENT,
)
from .record import (
    DONE as DONE,
)
from .record import (
    FAILED as FAILED,
)
from .record import (
    STATUS as STATUS,
)
from .record import (
    AcceptedFailure as AcceptedFailure,
)
from .record import (
    Fault as Fault,
)
from .record import (
    PatchRecord as PatchRecord,
)
from .record import (
    ShardRecord as ShardRecord,
)
from .record import (
    Source as Source,
)
from .record import (
    StatusGrid as StatusGrid,
)
from .record import (
    faults_of as faults_of,
)
from .shard import (
    NO_CHUNK as NO_CHUNK,
)
from .shard import (
    Chunk as Chunk,
)
from .shard import (
    ChunkReader as ChunkReader,
)
from .shard import (
    Fetched as Fetched,
)
from .shard import (
    Index as Index,
)
from .shard import (
    assemble as assemble,
)
from .shard import (
    by_plane as by_plane,
)
from .shard import (
    encode_chunk as encode_chunk,
)
from .shard import (
    joined as joined,
)
from .shard import (
    split as split,
)
from .statistics import (
    COUNTED as COUNTED,
)
from .statistics import (
    COUNTS_KEY as COUNTS_KEY,
)
from .statistics import (
    BandStatistics as BandStatistics,
)
from .statistics import (
    ClassCounts as ClassCounts,
)
from .statistics import (
    Histogram as Histogram,
)
from .statistics import (
    StatisticsSource as StatisticsSource,
)
from .statistics import (
    read_bands as read_bands,
)
from .statistics import (
    read_counts as read_counts,
)
from .statistics import (
    statistics_key as statistics_key,
)
from .statistics import (
    write_bands as write_bands,
)
from .statistics import (
    write_counts as write_counts,
)
