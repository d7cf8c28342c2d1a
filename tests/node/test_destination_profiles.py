"""Names that profiles of a site may have."""

import pytest

from node.adapters.pin_transport import PROFILE
from node.deliver.hl7_transport import DOCUMENT_PROFILE
from node.deliver.retraction import FOLDER
from node.destination_profiles import RESERVED, profile_called
from node.errors import Permanent
from node.settings import Settings


@pytest.mark.parametrize("name", [PROFILE.name, DOCUMENT_PROFILE.name, FOLDER])
def test_names_of_other_folders_of_results_are_refused(name):
    assert name in RESERVED
    with pytest.raises(Permanent, match="folders of that name"):
        profile_called(name, Settings())
