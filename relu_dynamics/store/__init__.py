"""Store: a sweep's blocks on disk, the labelled result made from them, and provenance.

A block is one npz file, written whole under another name, flushed to disk and renamed. It
carries the identity of its grid, its block number and a digest of its content: a block is done
when it *validates*, never just because a file exists. The labelled result (xarray on zarr) is made
from validated blocks and can be made again at any time.

Knows records, never training.
"""

from relu_dynamics.store.blocks import MOST_SEAL_BYTES as MOST_SEAL_BYTES
from relu_dynamics.store.blocks import block_path as block_path
from relu_dynamics.store.blocks import finished_blocks as finished_blocks
from relu_dynamics.store.blocks import flatten_result as flatten_result
from relu_dynamics.store.blocks import is_done as is_done
from relu_dynamics.store.blocks import read_block as read_block
from relu_dynamics.store.blocks import stored_blocks as stored_blocks
from relu_dynamics.store.blocks import write_block as write_block
from relu_dynamics.store.canary import Canary as Canary
from relu_dynamics.store.canary import canary_of as canary_of
from relu_dynamics.store.canary import check_canary as check_canary
from relu_dynamics.store.canary import claim_canary as claim_canary
from relu_dynamics.store.canary import read_canary as read_canary
from relu_dynamics.store.canary import result_differences as result_differences
from relu_dynamics.store.canary import told_differences as told_differences
from relu_dynamics.store.files import CANARY_FILE as CANARY_FILE
from relu_dynamics.store.files import IDENTITY_FILE as IDENTITY_FILE
from relu_dynamics.store.files import MOST_IDENTITY_BYTES as MOST_IDENTITY_BYTES
from relu_dynamics.store.files import OWN_NAMES as OWN_NAMES
from relu_dynamics.store.files import RESULT_FOLDER as RESULT_FOLDER
from relu_dynamics.store.files import SEAL as SEAL
from relu_dynamics.store.files import SUMMARY_FILE as SUMMARY_FILE
from relu_dynamics.store.files import BlockError as BlockError
from relu_dynamics.store.files import FolderError as FolderError
from relu_dynamics.store.files import FolderVersionError as FolderVersionError
from relu_dynamics.store.files import MissingBlockError as MissingBlockError
from relu_dynamics.store.files import NotWritableError as NotWritableError
from relu_dynamics.store.files import OtherGridError as OtherGridError
from relu_dynamics.store.files import UnfinishedError as UnfinishedError
from relu_dynamics.store.files import check_room as check_room
from relu_dynamics.store.files import differences as differences
from relu_dynamics.store.files import write_whole as write_whole
from relu_dynamics.store.files import writing as writing
from relu_dynamics.store.folder import check_folder as check_folder
from relu_dynamics.store.folder import open_folder as open_folder
from relu_dynamics.store.folder import read_identity as read_identity
from relu_dynamics.store.provenance import git_commit as git_commit
from relu_dynamics.store.provenance import provenance as provenance
from relu_dynamics.store.result import PART_BYTES as PART_BYTES
from relu_dynamics.store.result import build_result as build_result
from relu_dynamics.store.result import cell_records as cell_records
from relu_dynamics.store.result import join as join
from relu_dynamics.store.result import label as label
from relu_dynamics.store.result import open_result as open_result
from relu_dynamics.store.result import result_is_whole as result_is_whole
from relu_dynamics.store.result import seeds_at_once as seeds_at_once
from relu_dynamics.store.result import write_summary as write_summary
