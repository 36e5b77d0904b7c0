"""Settings that only films that play have, a part of the table of settings."""

from app.config.setting import Control, Wire, setting


class Live:
    """What only films that play have."""

    jpeg_quality: int = setting(
        90,
        "JPEG quality of what is sent to be watched; recordings do not change.",
        group="Live",
        wire=Wire("jpeg_quality", 20, 100),
        control=Control(
            "Picture", "JPEG quality of what is sent here; recordings do not change", ("live",), slider=(30, 95, 5)
        ),
    )
    refresh_on_drift: float | None = setting(
        None,
        "The drift, in standard deviations, at which the memory is made anew; 0 is never.",
        group="Live",
        wire=Wire("refresh_on_drift", 0, 10),
        replay="script",
    )
