import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import InputError
from recsys.serving.ids import to_external


@given(st.integers(-(10**18) + 1, 10**18 - 1))
def test_both_forms_of_an_integer_name_the_same_thing_in_either_kind_of_catalogue(number: int) -> None:
    assert to_external(number, "integer", "user") == to_external(str(number), "integer", "user") == number
    assert to_external(number, "string", "user") == to_external(str(number), "string", "user") == str(number)


@given(st.text(min_size=1))
def test_text_stays_as_it_is_in_a_catalogue_of_strings(text: str) -> None:
    assert to_external(text, "string", "item") == text


@pytest.mark.parametrize("text", ["007", "-0", "1.5", " 1", "1\n", "٣", "corn_field_3", "", "1" * 19])
def test_text_that_is_no_plain_integer_is_refused_by_a_catalogue_of_integers(text: str) -> None:
    with pytest.raises(InputError, match="is not an integer"):
        to_external(text, "integer", "item")


@pytest.mark.parametrize("text", ["8886.0", "8886.00", "8886,0", "8886."])
def test_a_whole_number_written_as_a_float_is_that_number_where_ids_are_integers(text: str) -> None:
    assert to_external(text, "integer", "user") == 8886
    assert to_external(text, "string", "user") == text


@pytest.mark.parametrize("text", ["8886.5", "8886.000", "8,886", "08.0", "-0.0"])
def test_no_other_float_is(text: str) -> None:
    with pytest.raises(InputError, match="is not an integer"):
        to_external(text, "integer", "user")
