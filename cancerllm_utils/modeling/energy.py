"""Energy of a piece of work, where the library codecarbon is installed: nothing depends on it, and nothing is sent anywhere."""

import logging
from contextlib import contextmanager


@contextmanager
def measured_energy(country_iso_code: str = "USA"):
    """Context manager around a piece of work; yields a dict whose `kwh` holds the energy in kilowatt hours afterwards, None without codecarbon.

    codecarbon's offline tracker asks no server where the machine stands; the country only turns energy into CO2, which is not read here.
    It reads the processor's and the cards' own meters where they may be read and estimates from the processor's name elsewhere. Where the
    tracker itself fails, the work goes on and the energy is None. https://docs.codecarbon.io
    """
    found = {"kwh": None}
    try:
        from codecarbon import OfflineEmissionsTracker
    except ImportError:
        yield found
        return
    tracker = start(OfflineEmissionsTracker, country_iso_code)
    try:
        yield found
    finally:
        if tracker is not None:
            found["kwh"] = stop(tracker)


def start(tracker_class, country_iso_code: str):
    """The tracker, started; None (and a line) where it cannot start on this machine."""
    logging.getLogger("codecarbon").setLevel(logging.ERROR)
    try:
        tracker = tracker_class(country_iso_code=country_iso_code, save_to_file=False, save_to_api=False, log_level="error", allow_multiple_runs=True)
        tracker.start()
    except Exception as error:
        print(f"energy: codecarbon cannot measure here ({type(error).__name__}); the column stays empty")
        return None
    return tracker


def stop(tracker) -> float | None:
    """Kilowatt hours since the start; None (and a line) where the tracker failed on the way."""
    try:
        tracker.stop()
        return float(tracker.final_emissions_data.energy_consumed)
    except Exception as error:
        print(f"energy: codecarbon stopped measuring ({type(error).__name__}); the column stays empty")
        return None
