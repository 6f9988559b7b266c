"""A Python file of the user's own is imported, or what is wrong with it is one line."""

import pytest

from fusionjax.config.user_file import UserFile
from fusionjax.errors import UserError

WRONG = {
    "syntax": (b"x = 1\ndef f(:\n    pass\n", r"is not valid Python in line 2: "),
    "raises": (b"x = 1\n\ny = x / 0\n", r"fails in line 3: ZeroDivisionError: division by zero"),
    "below": (
        b"import json\n\ndef get_config():\n    return json.loads('{')\n",
        r"fails in line 4: JSONDecodeError",
    ),
    "misspelt": (
        b"from fusionjax import config\n\ndef get_config():\n    c = config.default()\n    c.optm = 1\n    return c\n",
        r'line 5: AttributeError: .*Key "optm" does not exist.*Did you mean "optim" instead of "optm"\?.?$',
    ),
    "nothing": (b"def get_config():\n    pass\n", r"get_config\(\) returned NoneType, not a ConfigDict"),
    "other": (b"def get_config():\n    return {}\n", r"get_config\(\) returned dict, not a ConfigDict"),
    "lacks": (b"x = 1\n", r"has no get_config\(\)"),
    "not_callable": (b"get_config = 1\n", r"has no get_config\(\)"),
    "binary": (bytes(range(256)), r"is not valid Python"),
    "encoding": (b"x = '\xff\xfe'\n", r"is not valid Python"),
    "leaves": (b"import sys\nsys.exit('bye')\n", r"line 2: bye"),
    "recursion": (b"def f():\n    f()\n\nf()\n", r"line 2: RecursionError"),
    "imports": (b"import no_such_module\n", r"line 1: ModuleNotFoundError: No module named 'no_such_module'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_one_line(tmp_path, name):
    content, message = WRONG[name]
    path = tmp_path / f"{name}.py"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as e:
        UserFile(str(path)).config()
    assert str(e.value).startswith(f"--config={path}") and "\n" not in str(e.value)


def test_a_file_that_cannot_be_read(tmp_path):
    (tmp_path / "folder.py").mkdir()
    for path, message in ((tmp_path / "folder.py", "it is a folder"), (tmp_path / "none.py", "no such file")):
        with pytest.raises(UserError, match=f"cannot be read: {message}"):
            UserFile(str(path))


def test_the_content_of_a_file_that_is_no_program_is_not_shown(tmp_path):
    path = tmp_path / "secret.txt"
    for content in ("hunter2", "root:x:0:0:hunter2", "'hunter2", "hunter2("):
        for path in (tmp_path / "secret.txt", tmp_path / "secret"):
            path.write_text(content)
            with pytest.raises(UserError, match="is not a Python file") as e:
                UserFile(str(path))
            assert "hunter2" not in str(e.value)


def test_a_users_error_of_the_file_itself_stays(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(
        "from fusionjax.config import parse_arg\n\ndef get_config(arg=None):\n    return parse_arg(arg, size=1)\n"
    )
    assert UserFile(str(path)).config("size=3").size == 3
    with pytest.raises(UserError, match=r"^config argument size='big' is not a int$"):
        UserFile(str(path)).config("size=big")
